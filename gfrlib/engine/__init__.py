"""What makes a loop fast, resumable and parallel. Knows no method."""
