"""One module per dashboard: each has a function ``dashboard(words) -> Dashboard``, and the build finds it by its "
"name."""
