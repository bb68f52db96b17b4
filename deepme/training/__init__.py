"""How experts and gate are trained: one loop, two tasks, checkpoints."""
