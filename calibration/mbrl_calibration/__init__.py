"""What a datasheet does not say, found from a robot's own logs: delays, physics, how far predictions can be trusted."""
