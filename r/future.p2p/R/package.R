# What the package future has, but does not export. Each is part of how its own backends are made, and is looked for when it is needed, so that
# a version without it says so.
of_future <- function(name) {
  tryCatch(
    utils::getFromNamespace(name, "future"),
    error = function(fault) {
      stop_future("the package future ", as.character(utils::packageVersion("future")), " has no ", name, ": update future.p2p")
    }
  )
}
