"""Fine-tune a SmolVLM2 with LoRA: ``python mlx/lora_finetune.py --help``."""

import sys

from smolvlm2.apple.lora_command import main

if __name__ == "__main__":
    sys.exit(main())
