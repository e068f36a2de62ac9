"""Seven training methods on handwritten digits whose quadrants may be hidden."""
