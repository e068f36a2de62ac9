"""The server: lists, audiences, new customers and explanations over HTTP."""
