"""Ask a SmolVLM2 about an image or a clip: ``python mlx/test_inference.py --help``."""

import sys

from smolvlm2.apple.inference_command import main

if __name__ == "__main__":
    sys.exit(main())
