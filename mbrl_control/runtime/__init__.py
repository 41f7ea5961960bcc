"""What runs beside the robot: the tick, the plan buffer, the planner worker and the link between them."""
