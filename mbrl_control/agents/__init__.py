"""Recipes that learn a task from their own steps in it, a file each, from models, planners and policies."""
