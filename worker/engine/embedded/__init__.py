"""A pruned model as firmware: C with a planned arena, compiled for a Cortex-M, measured, and run in an emulator."""
