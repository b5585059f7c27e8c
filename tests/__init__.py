import pytest

# Helpers assert, too; what failed there is told in as much detail as in a test.
pytest.register_assert_rewrite("tests.support")
