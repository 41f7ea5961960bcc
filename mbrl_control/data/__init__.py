"""Episodes: what was sensed and commanded, from robots, simulators, bags and CSV."""
