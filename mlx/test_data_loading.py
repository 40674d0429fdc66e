"""Check training data without torch and mlx: ``python mlx/test_data_loading.py --help``."""

import sys

from smolvlm2.apple.data_command import main

if __name__ == "__main__":
    sys.exit(main())
