"""From a conversation to a lesson: self-study, contrast, scoring."""
