"""When a kernel regression in closed form is better than a trained model, and when it is not."""
