"""What is sent to the model: messages, tools, history, context."""
