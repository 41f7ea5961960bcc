"""MuJoCo plants and tasks that the stack is tried on."""
