"""How long runs take, told before: counted as they are, measured in seconds."""

import contextlib

import pytest
import torch
from helpers_core import SMALL, TINY, tiny

from gfrlib import cli, networks
from gfrlib.config import make_config
