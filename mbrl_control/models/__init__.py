"""What will happen: learned and known models behind one contract."""
