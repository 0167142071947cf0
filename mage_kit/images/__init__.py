"""Images as files and as arrays: read, cropped, augmented, laid out side by side."""
