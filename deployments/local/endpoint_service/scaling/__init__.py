"""Application Auto Scaling of endpoint variants: targets, policies, schedules, and the instances that they change."""
