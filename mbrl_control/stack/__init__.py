"""The processes put together: in lockstep on a virtual clock, or as real processes; reports and pictures."""
