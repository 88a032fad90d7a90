# Commands that run until they are stopped. Each is a function, and also does its work when it is printed by `Rscript -e`, with the arguments
# that follow there: Rscript -e future.p2p::worker --cluster=alice/friends

command <- function(call) structure(call, class = c("p2p_command", "function"))

host_cluster <- command(function(cluster = p2p_cluster_name(users, host = host, ssh_args = ssh_args), users = character(0L), host = NULL,
                                 ssh_args = NULL, duration = 14 * 24 * 60 * 60) {
  users <- unlist(strsplit(as.character(users), ",", fixed = TRUE))
  run_program("host", c(
    way(cluster, host, ssh_args), if (length(users) > 0L) paste0("--users=", paste(users, collapse = ",")),
    paste0("--duration=", time(duration))
  ))
})

worker <- command(function(cluster = p2p_cluster_name(host = host, ssh_args = ssh_args), host = NULL, ssh_args = NULL, duration = 60 * 60,
                           slots = 1L) {
  rscript <- file.path(R.home("bin"), "Rscript")
  run_program("worker", c(
    way(cluster, host, ssh_args), paste0("--duration=", time(duration)), paste0("--slots=", as.integer(slots)), paste0("--rscript=", rscript)
  ))
})

pico_p2p_worker <- worker

print.p2p_command <- function(x, ...) {
  # Only what Rscript -e prints is a command; at a prompt, or in a script, it is shown as any function.
  if (interactive() || !"-e" %in% commandArgs()) {
    print(unclass(x), ...)
    return(invisible(x))
  }
  status <- tryCatch(
    do.call(x, named_arguments(commandArgs(trailingOnly = TRUE), names(formals(x)))),
    error = function(fault) {
      tell(conditionMessage(fault))
      2L
    }
  )
  quit("no", status = status)
}

# --name=value or --name value, of these names.
named_arguments <- function(words, names) {
  arguments <- list()
  while (length(words) > 0L) {
    parts <- regmatches(words[[1L]], regexec("^--([A-Za-z_-]+)(=(.*))?$", words[[1L]]))[[1L]]
    name <- if (length(parts) > 0L) gsub("-", "_", parts[[2L]], fixed = TRUE) else ""
    if (!name %in% names) {
      stop("there is no option ", words[[1L]], "; there are ", paste0("--", names, "=...", collapse = ", "), call. = FALSE)
    }
    words <- words[-1L]
    value <- parts[[4L]]
    if (!nzchar(parts[[3L]])) {
      if (length(words) == 0L) stop("--", name, " needs a value: --", name, "=...", call. = FALSE)
      value <- words[[1L]]
      words <- words[-1L]
    }
    arguments[[name]] <- value
  }
  arguments
}

# Seconds, or words that the program knows, such as 2h.
time <- function(duration) {
  number <- suppressWarnings(as.numeric(duration))
  if (!isTRUE(number >= 0)) return(one_word(duration, "duration"))
  paste0(format(ceiling(number), scientific = FALSE), "s")
}

# Runs until it ends, with this process's terminal. An interrupt there is the program's, which finishes what it has; R waits meanwhile. When R
# dies, it ends, too.
run_program <- function(name, arguments) {
  words <- shQuote(c("env", "P2P_WITH_PARENT=1", executable(), name, arguments))
  status <- system(paste("exec", paste(words, collapse = " ")))
  invisible(status)
}
