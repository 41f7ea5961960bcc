"""ROS 2 nodes of mbrl_control. Thin: what is computed lives in the library, what is sent and when lives here."""
