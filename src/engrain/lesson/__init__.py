"""What a lesson goes through: a job, its stages, what is asked, what is served, what it costs."""
