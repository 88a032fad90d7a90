# One warm R session of a worker. It is told by lines on a pipe which attempt to run, and answers there in frames: what a task prints, or
# writes to any descriptor of its own, cannot get between them.
#
#   request   run CPUS LENGTH FOLDER       and LENGTH bytes follow: the names of the task's files, one a line; the first is the future
#   answer    kind (1 byte), length (4 bytes, little-endian), bytes
#             1 ready  2 a condition, serialized  3 done  4 could not be run, with words
#
# The result of a future goes to the file .p2p-value in its folder.
local({
  arguments <- commandArgs(trailingOnly = TRUE)
  requests <- fifo(arguments[[1L]], open = "rb", blocking = TRUE)
  answers <- fifo(arguments[[2L]], open = "wb", blocking = TRUE)
  home <- getwd()
  condition_bytes <- 16 * 1024^2
  # After a task whose files have so many bytes, or that took so many seconds, garbage is collected.
  large_bytes <- 8 * 1024^2
  long_s <- 0.5
  bytes <- 0
  collect <- FALSE

  answer <- function(kind, bytes = raw()) {
    writeBin(c(as.raw(kind), writeBin(length(bytes), raw(), size = 4L, endian = "little"), bytes), answers)
    flush(answers)
  }
  read_bytes <- function(length) {
    bytes <- raw()
    while (length(bytes) < length) {
      more <- readBin(requests, "raw", length - length(bytes))
      # The worker is gone.
      if (length(more) == 0L) quit("no")
      bytes <- c(bytes, more)
    }
    bytes
  }
  load_file <- function(name) {
    from <- file(name, "rb")
    on.exit(close(from))
    unserialize(from)
  }

  # The first use of these takes a tenth of a second, which no task is to pay.
  for (package in c("future", "parallel")) loadNamespace(package)
  local({
    never <- future::future(NULL, lazy = TRUE, globals = FALSE)
    try(future:::evalFuture(future:::getFutureData(never)), silent = TRUE)
  })

  # They were for this process only.
  Sys.unsetenv(c("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"))
  as_it_was <- list(
    options = options(), environment = Sys.getenv(), loaded = loadedNamespaces(), attached = search(),
    kind = RNGkind(), locale = Sys.getlocale()
  )
  ours <- c(as.integer(requests), as.integer(answers))

  # What a task changed is undone as far as R can: what it cannot unload stays loaded.
  clean <- function(large, long) {
    while (sink.number() > 0L) try(sink(), silent = TRUE)
    if (sink.number(type = "message") != 2L) sink(type = "message")
    # showConnections() would collect garbage first, which takes longer than a small task.
    open <- setdiff(getAllConnections(), c(0:2, ours))
    for (connection in open) try(close(getConnection(connection)), silent = TRUE)
    if ("grDevices" %in% loadedNamespaces()) grDevices::graphics.off()
    rm(list = ls(globalenv(), all.names = TRUE), envir = globalenv())
    for (name in setdiff(search(), as_it_was$attached)) try(detach(name, character.only = TRUE), silent = TRUE)
    # A package goes only after those that need it.
    for (round in 1:5) {
      more <- rev(setdiff(loadedNamespaces(), as_it_was$loaded))
      if (length(more) == 0L) break
      for (name in more) try(unloadNamespace(name), silent = TRUE)
    }
    now <- options()
    new <- setdiff(names(now), names(as_it_was$options))
    options(structure(vector("list", length(new)), names = new))
    if (!identical(now[names(as_it_was$options)], as_it_was$options)) options(as_it_was$options)
    now <- Sys.getenv()
    Sys.unsetenv(setdiff(names(now), names(as_it_was$environment)))
    changed <- names(as_it_was$environment)[!(as_it_was$environment == now[names(as_it_was$environment)]) %in% TRUE]
    if (length(changed) > 0L) do.call(Sys.setenv, as.list(as_it_was$environment[changed]))
    do.call(RNGkind, as.list(as_it_was$kind))
    if (exists(".Random.seed", globalenv(), inherits = FALSE)) rm(".Random.seed", envir = globalenv())
    if (!identical(Sys.getlocale(), as_it_was$locale)) {
      for (part in strsplit(as_it_was$locale, ";", fixed = TRUE)[[1L]]) {
        pair <- strsplit(part, "=", fixed = TRUE)[[1L]]
        if (length(pair) == 2L) try(Sys.setlocale(pair[[1L]], pair[[2L]]), silent = TRUE)
      }
    }
    future::plan("default")
    setwd(home)
    unlink(list.files(tempdir(), all.files = TRUE, no.. = TRUE, full.names = TRUE), recursive = TRUE, force = TRUE)
    # It takes as long as a small task: for those R does it when it needs to.
    if (long || large) gc(full = long)
  }

  lacks <- function(names) {
    names <- setdiff(names, loadedNamespaces())
    names[!vapply(names, function(name) nzchar(system.file(package = name)), NA)]
  }

  run <- function(folder, cpus, files) {
    setwd(folder)
    Sys.setenv(HOME = folder, PWD = folder, TMPDIR = folder, P2P_CPUS = cpus)
    options(mc.cores = cpus)
    bytes <<- sum(file.size(files))
    data <- load_file(files[[1L]])
    collect <<- isTRUE(data$gc)
    for (file in files[-1L]) {
      # A large global that several futures have travels apart.
      part <- load_file(file)
      data$core$globals[part$name] <- list(part$value)
    }
    lacking <- lacks(data$core$packages)
    if (length(lacking) > 0L) {
      return(paste0(
        "R on this worker has no package ", paste(lacking, collapse = ", "), " (it is R ", getRversion(), "): ",
        "ask its owner to install it, or use other workers"
      ))
    }
    immediate <- data$capture$immediateConditionClasses
    if (length(immediate) > 0L) {
      tell <- function(condition) {
        bytes <- serialize(condition, NULL, xdr = FALSE)
        if (length(bytes) <= condition_bytes) answer(2L, bytes)
        TRUE
      }
      data$capture$immediateConditionHandlers <- structure(rep(list(tell), length(immediate)), names = immediate)
    }
    result <- future:::evalFuture(data)
    to <- file(file.path(folder, ".p2p-value"), "wb")
    on.exit(close(to))
    serialize(result, to, xdr = FALSE)
    NULL
  }

  # R compiles a function when it is called for the second time.
  for (round in 1:2) clean(large = FALSE, long = FALSE)
  repeat {
    answer(1L)
    line <- readLines(requests, n = 1L)
    if (length(line) == 0L) quit("no")
    parts <- regmatches(line, regexec("^run ([0-9]+) ([0-9]+) (.*)$", line))[[1L]]
    files <- strsplit(rawToChar(read_bytes(as.integer(parts[[3L]]))), "\n", fixed = TRUE)[[1L]]
    began <- proc.time()[[3L]]
    bytes <- 0
    collect <- FALSE
    fault <- tryCatch(
      run(parts[[4L]], as.integer(parts[[2L]]), files),
      error = function(fault) paste0("R on this worker cannot run the future: ", conditionMessage(fault)),
      interrupt = function(interrupt) "interrupted"
    )
    # A sink that the task closed under R may be in the way.
    try(flush(stdout()), silent = TRUE)
    if (is.null(fault)) answer(3L) else answer(4L, charToRaw(enc2utf8(fault)))
    clean(large = isTRUE(bytes > large_bytes), long = collect || proc.time()[[3L]] - began > long_s)
  }
})
