"""The page's tabs: the server's side of each. `app/static` has their other side, a file each of the same name."""
