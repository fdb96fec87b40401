"""Commands of `eagle-hsd hierarchy`: profile models, plan from the profile."""
