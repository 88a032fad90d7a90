# A future on its way: it becomes a task of the cluster, and the file that comes back its result.
#
# What the backend keeps in a future is in `future$p2p`: its bridge and task, the files that it has sent, its worker, and its end.

# Beside those that run, so many may wait in the cluster; more wait here.
waiting_futures <- 8L
# While there is no room for more, the cluster is looked at so often, seconds.
look_again <- 1
# How long resolved() waits when it is asked again and again, milliseconds.
moment <- 10L
# What to do about a worker that sends rubbish.
mistrust <- "; tell its owner, and take other workers until it is mended (labels in plan())"

launchFuture.P2PFutureBackend <- function(backend, future, ...) {
  reference <- untransferable(future$globals)
  if (!is.null(reference)) {
    stop_future(
      "future ", label_of(future), " cannot go to another computer: its ", reference, ", which means nothing there. ",
      "Make it within the future instead", future = future
    )
  }
  future$p2p <- new.env(parent = emptyenv())
  bridge <- bridge_with_room(backend)
  future$p2p$bridge <- bridge
  future$p2p$frames <- raw()
  future$p2p$shared <- share_globals(bridge, future$globals)
  # Where it cannot be written after all, what is shared is free again.
  on.exit(if (is.null(future$p2p$task)) for (key in future$p2p$shared) release(bridge, key))
  shared <- bridge$shared[future$p2p$shared]

  data <- of_future("getFutureData")(future, mc.cores = 1L)
  # Where they were found: environments that may hold anything, and the globals themselves once more.
  where <- attr(data$core$globals, "where", exact = TRUE)
  if (!is.null(where)) attr(data$core$globals, "where") <- lapply(where, function(environment) globalenv())
  for (part in shared) data$core$globals[part$name] <- list(NULL)
  # The session is cleaned thoroughly after this one.
  data$gc <- isTRUE(future$gc)
  future$p2p$input <- new_input(bridge)
  write_object(data, future$p2p$input)

  new <- Filter(function(part) part$users == 1L, shared)
  tell_size(future, file.size(future$p2p$input) + sum(vapply(new, function(part) file.size(part$path), 0)))

  paths <- c(future$p2p$input, vapply(shared, function(part) part$path, ""))
  names <- c("future", if (length(shared) > 0L) paste0("global", seq_along(shared)))
  bridge$next_task <- bridge$next_task + 1L
  future$p2p$task <- bridge$next_task
  bridge$tasks[[as.character(future$p2p$task)]] <- future
  bridge$unfinished <- bridge$unfinished + 1L
  # What is on its way is not told from what runs: the tests of the Future API know no third state.
  future$state <- "running"
  backend$counters[["launched"]] <- backend$counters[["launched"]] + 1L
  ask(
    bridge,
    do = "submit", task = future$p2p$task, runtime = "r", words = as.list(names),
    inputs = unname(Map(function(name, path) list(name = name, path = path), names, paths)),
    outputs = list(".p2p-value"), labels = as.list(backend$labels), once = !backend$retry
  )
  # While that goes its way.
  remember(bridge, future$p2p$shared, future$globals)
  future
}

# A few more than can run are sent, so that workers never wait for the next one. A bridge that ends meanwhile is replaced.
bridge_with_room <- function(backend) {
  repeat {
    bridge <- bridge_of(backend)
    while (is.null(bridge$over) && bridge$unfinished >= room(bridge)) {
      pump(bridge)
      # A friend may have come meanwhile.
      if (bridge$unfinished >= room(bridge) && proc.time()[["elapsed"]] >= bridge$looked + look_again) look(bridge)
    }
    if (is.null(bridge$over)) return(bridge)
  }
}

room <- function(bridge) 2L * max(1L, slots(bridge$status)) + waiting_futures

resolved.P2PFuture <- function(x, .signalEarly = TRUE, ...) {
  # It is launched where it was not.
  if (x$state == "created") return(NextMethod())
  if (is.null(x$p2p$task)) return(TRUE)
  if (is.null(x$result)) {
    if (is.null(x$p2p$end)) glance(x)
    if (is.null(x$p2p$end)) return(FALSE)
  }
  if (.signalEarly) of_future("signalEarly")(x)
  TRUE
}

# Looks for news. Who asks a second time with none in between is in a loop, and waits a moment, so that the loop does not keep a core from work; one
# wait for a whole round of futures will do.
glance <- function(future) {
  bridge <- future$p2p$bridge
  again <- identical(future$p2p$asked, bridge$news)
  pump(bridge, if (again) moment else 0L)
  if (again) bridge$news <- bridge$news + 1
  future$p2p$asked <- bridge$news
}

result.P2PFuture <- function(future, ...) {
  if (is.null(future$result)) {
    if (future$state == "created") future <- future::run(future)
    if (is.null(future$p2p$task)) stop_future("future ", label_of(future), " was not launched, for the reason that was told then; reset() lets it be launched again", future = future)
    while (is.null(future$p2p$end)) pump(future$p2p$bridge)
    future$result <- take_result(future, future$p2p$end)
  }
  if (inherits(future$result, "FutureError")) stop(future$result)
  future$result
}

# A FutureResult, or a FutureError that says why there is none.
take_result <- function(future, end) {
  on.exit(unlink(unlist(end$outputs)))
  if (!is.null(future$p2p$distrusted)) {
    future$state <- "failed"
    return(failure(future, future$p2p$distrusted, mistrust))
  }
  if (future$state %in% c("canceled", "interrupted") || end$how == "cancelled") {
    if (future$state != "canceled") future$state <- "interrupted"
    return(interrupted(future, "was cancelled", if (end$how == "cancelled") end$message))
  }
  if (end$how == "exit" && identical(as.integer(end$code), 0L) && length(end$outputs) == 1L) {
    result <- read_result(future, end$outputs[[1L]])
    future$state <- if (inherits(result, "FutureError")) "failed" else "finished"
    return(result)
  }
  future$state <- "failed"
  words <- trimws(future$p2p$words %||% "")
  last <- if (nzchar(words)) paste0("Its last words: ", words) else "It left no words"
  switch(end$how,
    exit = {
      future$state <- "interrupted"
      interrupted(future, paste0("ended its R session with exit code ", end$code), last)
    },
    signal = {
      future$state <- "interrupted"
      interrupted(future, paste0("was lost with its R session, which signal ", end$code, " ended"), last)
    },
    timeout = interrupted(future, "ran longer than its worker lets it"),
    lost = {
      future$state <- "interrupted"
      interrupted(future, "was lost", end$message)
    },
    failure(future, end$message)
  )
}

failure <- function(future, ...) {
  at <- if (!is.null(future$p2p$worker)) paste0(" (on ", future$p2p$worker, ")")
  future::FutureError(paste0("Future ", label_of(future), at, ": ", ...), future = future)
}

interrupted <- function(future, what, why = NULL) {
  at <- if (!is.null(future$p2p$worker)) paste0(" on ", future$p2p$worker)
  text <- paste0("Future ", label_of(future), at, " ", what, if (!is.null(why)) paste0(": ", why))
  make <- future::FutureInterruptError
  if (future$state == "canceled" && "FutureCanceledError" %in% getNamespaceExports("future")) {
    make <- getExportedValue("future", "FutureCanceledError")
  }
  make(text, future = future)
}

# What a worker sent is looked at before it is read: it may be anything.
read_result <- function(future, path) {
  from <- future$p2p$worker
  size <- file.size(path)
  most <- utils::tail(future$backend$maxSizeOfObjects, 1L)
  if (is.na(size)) return(failure(future, "its result is gone: the plan was changed before it was asked for; reset() lets it be launched again"))
  if (size > most) {
    return(failure(
      future, "its result has ", megabytes(size), ", and option future.globals.maxSize allows ", megabytes(most),
      ": raise that, or have the future return less"
    ))
  }
  if (!is_list_with_class(path)) return(failure(future, "what ", from, " sent is not the result of a future, and was not read", mistrust))
  result <- tryCatch(
    {
      connection <- file(path, "rb")
      on.exit(close(connection))
      unserialize(connection)
    },
    error = function(fault) failure(future, "the result from ", from, " cannot be read: ", conditionMessage(fault), mistrust)
  )
  if (inherits(result, "FutureError")) return(result)
  if (!inherits(result, "FutureResult")) return(failure(future, from, " sent an object of class ", sQuote(class(result)[[1L]]), " as a result", mistrust))
  if (!identical(result$uuid, future$uuid)) return(failure(future, from, " sent the result of another future", mistrust))
  result
}

# Whether the first bytes are those of a serialized list that has a class. "R Internals", 1.8, has the format: two letters, versions of format and R's
# (with the encoding, from version 3 on), and then flags, whose lowest byte is the type.
is_list_with_class <- function(path) {
  head <- readBin(path, "raw", 64L)
  number <- function(at) readBin(head[at + 0:3], "integer", size = 4L, endian = "little")
  if (length(head) < 64L || !identical(head[1:2], charToRaw("B\n"))) return(FALSE)
  version <- number(3L)
  if (!version %in% 2:3) return(FALSE)
  at <- 15L
  if (version == 3L) {
    encoding <- number(15L)
    if (is.na(encoding) || encoding < 0L || encoding > 32L) return(FALSE)
    at <- 19L + encoding
  }
  flags <- number(at)
  list_type <- 19L
  object_flag <- 256L
  !is.na(flags) && bitwAnd(flags, 255L) == list_type && bitwAnd(flags, object_flag) != 0L
}

interruptFuture.P2PFutureBackend <- function(backend, future, ...) {
  if (isFALSE(backend$interrupts)) return(future)
  if (is.null(future$p2p$end)) ask(future$p2p$bridge, do = "cancel", task = future$p2p$task)
  future$state <- "interrupted"
  future
}
