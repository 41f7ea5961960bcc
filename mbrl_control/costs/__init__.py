"""What the robot is asked to do: stage and terminal costs over batches of states and actions."""
