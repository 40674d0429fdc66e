"""SmolVLM2 with MLX: inference, data check, LoRA, memory, on Apple silicon and on Linux CPUs.

Model classes, LoRA layers, quantisation and decoding are mlx-vlm's; prompts and pixels are
``processing``'s. No file here imports torch. Files that need mlx say so by importing it at their
top; ``packages``, ``samples``, ``checking``, ``drawn_samples`` and ``memory`` do not.
"""
