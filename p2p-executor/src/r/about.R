# What this R is, for the worker that offers it; each line with a mark, as start-up files may print, too.
say <- function(...) writeLines(paste0("p2p:", ...))
say(getRversion())
say(R.version$platform)
say(paste(.libPaths(), collapse = .Platform$path.sep))
say(if (nzchar(system.file(package = "future"))) packageVersion("future") else "")
installed <- installed.packages()
say(unique(paste(installed[, "Package"], installed[, "Version"])))
