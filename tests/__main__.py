"""Run pytest on the files named: what the py_test targets of BUILD start."""

import sys

import pytest

sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]]))
