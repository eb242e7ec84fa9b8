"""What makes a loop fast, resumable and parallel.

Of a method it knows the words of its columns alone.
"""
