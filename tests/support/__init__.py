"""What tests of several folders share; nothing here is itself a test."""
