"""What the model is told: messages, tools, history, context."""
