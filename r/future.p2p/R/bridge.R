# The bridge: one process of the program p2p for each plan, spoken with in lines of JSON (docs/bridge.md). It holds the connections to the
# cluster; what it says about a future is kept in that future. It ends when this R does, however that dies.
#
# Whoever waits calls `pump`, which sleeps until there is something and handles all that there is.

# After its stdin was closed, seconds until it is killed.
closing <- 2
# What it said on stderr last, lines: why it ended.
last_lines <- 20L
# What R printed to stderr last, characters: its last words, if it dies.
last_words <- 4096L
# One immediate condition, bytes; workers send no larger ones.
condition_bytes <- 16 * 1024^2

start_bridge <- function(backend) {
  bridge <- new.env(parent = emptyenv())
  arguments <- c(
    "bridge", way(backend$cluster, backend$host, backend$ssh_args),
    paste0("--wait=", time(backend$wait)), paste0("--grace=", time(backend$grace)), paste0("--folder=", tempdir(TRUE))
  )
  bridge$process <- processx::process$new(executable(), arguments, stdin = "|", stdout = "|", stderr = "|", encoding = "UTF-8")
  bridge$owner <- Sys.getpid()
  bridge$tasks <- new.env(parent = emptyenv())
  bridge$unfinished <- 0L
  bridge$next_task <- 0L
  bridge$answers <- list()
  bridge$handled <- 0L
  # Grows when there are any.
  bridge$news <- 0
  bridge$words <- character(0L)
  bridge$shared <- list()
  reg.finalizer(bridge, close_bridge, onexit = TRUE)
  while (is.null(bridge$ready) && is.null(bridge$over)) pump(bridge)
  if (!is.null(bridge$over)) stop_future(bridge$over)
  check_program(bridge$ready)
  bridge$inputs <- file.path(bridge$ready$folder, "inputs")
  dir.create(bridge$inputs, mode = "0700")
  bridge
}

check_program <- function(ready) {
  ours <- utils::packageVersion("future.p2p")
  both <- paste0("the program p2p is ", ready$version, " (", executable(), "), and the package future.p2p is ", ours)
  if (!identical(as.integer(ready$protocol), bridge_protocol)) {
    older <- if (ready$protocol > bridge_protocol) "the package" else "the program"
    stop_future(both, ": they do not understand each other; update ", older)
  }
  if (package_version(ready$version) < oldest_program) stop_future(both, ", which needs ", oldest_program, ": update the program")
}

close_bridge <- function(bridge) {
  # A forked child has a copy of what belongs to its parent.
  if (bridge$owner != Sys.getpid()) return()
  process <- bridge$process
  if (process$is_alive()) {
    try(close(process$get_input_connection()), silent = TRUE)
    process$wait(closing * 1000)
    process$kill()
  }
  unlink(bridge$ready$folder, recursive = TRUE)
  end_all(bridge, "the plan was changed, and its futures were given up", how = "cancelled")
}

ask <- function(bridge, ...) {
  line <- paste0(jsonlite::toJSON(list(...), auto_unbox = TRUE, null = "null"), "\n")
  # Half a line must not stay there.
  suspendInterrupts({
    rest <- try_write(bridge, line)
    while (length(rest) > 0L) {
      # It may be waiting until its answers are read.
      read_answers(bridge, 10L)
      if (!is.null(bridge$over)) break
      rest <- try_write(bridge, rest)
    }
  })
}

try_write <- function(bridge, text) {
  tryCatch(bridge$process$write_input(text), error = function(fault) {
    # It died; its last words say why.
    while (is.null(bridge$over)) read_answers(bridge, -1L)
    NULL
  })
}

# Handles what the bridge has said, after waiting until it says something; milliseconds, or -1 for as long as it takes.
pump <- function(bridge, timeout = -1L) {
  if (bridge$owner != Sys.getpid()) {
    stop_future("a future can be asked after only in the R process that launched it (", bridge$owner, "), and this is ", Sys.getpid())
  }
  if (bridge$handled == length(bridge$answers)) read_answers(bridge, timeout)
  # Handling one may jump out of here, where a condition of a future has a handler that does; the others are for the next time.
  while (bridge$handled < length(bridge$answers)) {
    bridge$handled <- bridge$handled + 1L
    bridge$news <- bridge$news + 1
    on_answer(bridge, bridge$answers[[bridge$handled]])
  }
  # What it has not ended ends with it, and so does what it was given afterwards.
  if (!is.null(bridge$over)) end_all(bridge, bridge$over)
}

read_answers <- function(bridge, timeout) {
  if (!is.null(bridge$over)) return()
  process <- bridge$process
  process$poll_io(timeout)
  said <- process$read_error_lines()
  if (length(said) > 0L) {
    bridge$words <- utils::tail(c(bridge$words, said), last_lines)
    # Why it ended is told as an error.
    if (!is.null(bridge$ready)) for (line in said) tell(line)
  }
  lines <- process$read_output_lines()
  answers <- lapply(lines, jsonlite::parse_json)
  waiting <- bridge$answers[seq_along(bridge$answers) > bridge$handled]
  bridge$answers <- c(waiting, answers)
  bridge$handled <- 0L
  if (length(lines) == 0L && !process$is_incomplete_output()) on_bridge_end(bridge)
}

on_bridge_end <- function(bridge) {
  bridge$process$wait(closing * 1000)
  bridge$words <- c(bridge$words, bridge$process$read_all_error_lines())
  words <- plain(bridge$words)
  status <- bridge$process$get_exit_status()
  if (!nzchar(words)) {
    words <- paste0(
      "the program p2p that serves this plan ended (", if (isTRUE(status < 0L)) "signal " else "exit code ", abs(status %||% NA), "); ",
      "futures that ran are lost, and new ones start it again"
    )
  }
  bridge$over <- words
}

# Everything that was under way is over.
end_all <- function(bridge, message, how = "failed") {
  if (is.null(bridge$over)) bridge$over <- message
  for (task in ls(bridge$tasks)) on_end(bridge, list(task = task, how = how, message = message, outputs = list()))
}

on_answer <- function(bridge, answer) {
  future <- if (!is.null(answer$task)) bridge$tasks[[as.character(answer$task)]]
  switch(answer$is,
    ready = bridge$ready <- answer,
    status = bridge$status <- answer$status,
    waiting = on_waiting(bridge, answer$why, answer$busy),
    fatal = end_all(bridge, answer$message),
    ended = on_end(bridge, answer),
    refused = {
      if (is.null(future)) stop_future("the program p2p did not understand this package: ", answer$message)
      on_end(bridge, list(task = answer$task, how = "failed", message = answer$message, outputs = list()))
    },
    if (!is.null(future)) on_news(future, answer)
  )
}

# What is heard of a future before its end.
on_news <- function(future, answer) {
  switch(answer$is,
    sent = future$p2p$worker <- answer$worker,
    # Not what it prints, which R catches and sends with its result, but what gets around that: system(), C code.
    stdout = if (!identical(as.logical(future$stdout), FALSE)) cat(answer$text),
    stderr = {
      cat(answer$text, file = stderr())
      said <- paste0(future$p2p$words, answer$text)
      future$p2p$words <- substring(said, nchar(said) - last_words + 1L)
    },
    value = on_value(future, jsonlite::base64_dec(answer$base64)),
    note = tell("future ", label_of(future), ": ", answer$text),
    again = {
      tell("future ", label_of(future), ": ", future$p2p$worker, " was lost, it starts again elsewhere")
      future$p2p$words <- NULL
      future$p2p$frames <- raw()
    }
  )
}

on_waiting <- function(bridge, why, busy) {
  # More futures than slots are nothing to speak of, unless it is others who have the slots.
  ours <- busy && bridge$unfinished > slots(bridge$status)
  if (!is.null(why) && !ours) tell("waiting: ", why)
  bridge$why <- why
}

# Immediate conditions, each behind its length.
on_value <- function(future, bytes) {
  bytes <- c(future$p2p$frames, bytes)
  repeat {
    if (length(bytes) < 4L) break
    length <- readBin(bytes, "integer", size = 4L, endian = "big")
    if (is.na(length) || length < 0L || length > condition_bytes) {
      bytes <- raw()
      give_up(future, "its worker sent rubbish as a condition")
      break
    }
    if (length(bytes) < 4L + length) break
    frame <- bytes[4L + seq_len(length)]
    bytes <- bytes[-seq_len(4L + length)]
    future$p2p$frames <- bytes
    signal_now(future, frame)
  }
  future$p2p$frames <- bytes
}

signal_now <- function(future, frame) {
  condition <- tryCatch(unserialize(frame), error = function(fault) NULL)
  wanted <- attr(future$conditions, "immediateConditionClasses", exact = TRUE)
  if (!inherits(condition, "condition") || !inherits(condition, wanted)) {
    give_up(future, "its worker sent a condition that was not asked for")
  } else if (inherits(condition, "message")) {
    message(condition)
  } else if (inherits(condition, "warning")) {
    warning(condition)
  } else {
    signalCondition(condition)
  }
}

# Its worker cannot be believed.
give_up <- function(future, why) {
  if (is.null(future$p2p$distrusted)) {
    future$p2p$distrusted <- why
    ask(future$p2p$bridge, do = "cancel", task = future$p2p$task)
  }
}

on_end <- function(bridge, answer) {
  task <- as.character(answer$task)
  future <- bridge$tasks[[task]]
  if (is.null(future)) return()
  rm(list = task, envir = bridge$tasks)
  bridge$unfinished <- bridge$unfinished - 1L
  unlink(future$p2p$input)
  for (key in future$p2p$shared) release(bridge, key)
  if (!is.null(answer$worker)) future$p2p$worker <- answer$worker
  future$p2p$end <- answer
  count_finished(future$backend, answer)
}

count_finished <- function(backend, answer) {
  backend$counters[["finished"]] <- backend$counters[["finished"]] + 1L
  backend$runtime <- backend$runtime + (answer$ran_ms %||% 0) / 1000
}

# Who is in the cluster, now; or, with a number of seconds, once somebody is there who runs R.
look <- function(bridge, wait = 0) {
  bridge$status <- NULL
  bridge$looked <- proc.time()[["elapsed"]]
  if (wait > 0) {
    ask(bridge, do = "status", runtime = "r", wait_ms = as.integer(wait * 1000))
  } else {
    ask(bridge, do = "status")
  }
  while (is.null(bridge$status) && is.null(bridge$over)) pump(bridge)
  if (!is.null(bridge$over)) stop_future(bridge$over)
  bridge$status
}

label_of <- function(future) {
  if (is.null(future$label)) paste0("<unnamed-", utils::tail(future$uuid, 1L), ">") else sQuote(future$label)
}

`%||%` <- function(x, y) if (is.null(x)) y else x
