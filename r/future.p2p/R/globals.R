# Large globals travel in files of their own. One that several futures have is written once and, as the program sends a file once to each worker,
# sent once.

# A global this large has a file of its own, bytes.
large_bytes <- 256 * 1024
# So much of them is remembered after the futures that had them, objects and bytes. What is larger than all that is written for each future.
remembered <- 32L
remembered_bytes <- 1024^3
# Sending more than this is told, bytes.
told_bytes <- 100 * 1024^2
# How deep lists are looked through for what cannot travel, and how many elements of each.
deep <- 3L
wide <- 1000L

# What the connection or pointer among these is called, if there is one: it means nothing in another process.
untransferable <- function(globals) {
  for (name in names(globals)) {
    what <- reference_in(globals[[name]], deep)
    if (!is.null(what)) return(paste0("global ", sQuote(name), " ", what))
  }
  NULL
}

reference_in <- function(value, levels) {
  if (inherits(value, "connection")) return("is, or holds, a connection")
  if (typeof(value) == "externalptr") return("is, or holds, an external pointer")
  if (is.list(value) && levels > 0L) {
    for (element in utils::head(unclass(value), wide)) {
      what <- reference_in(element, levels - 1L)
      if (!is.null(what)) return(what)
    }
  }
  NULL
}

# Bytes in memory where this is plain data that is large, and else 0: what has an environment, may share it with other globals.
plain_bytes <- function(value) {
  if (!is.atomic(value) && typeof(value) != "list") return(0)
  bytes <- as.numeric(utils::object.size(value))
  if (bytes >= large_bytes && is_plain(value, deep)) bytes else 0
}

is_plain <- function(value, levels) {
  atomic <- is.null(value) || is.atomic(value)
  if (!atomic && !(typeof(value) == "list" && levels > 0L && length(value) <= wide)) return(FALSE)
  # A data.table points at itself, and is data all the same.
  around <- attributes(value)
  around$.internal.selfref <- NULL
  inner <- c(if (!atomic) unclass(value), if (length(around) > 0L) around)
  for (element in inner) if (!is_plain(element, levels - 1L)) return(FALSE)
  TRUE
}

# The entries of `bridge$shared` for the large ones among these; files are written for those that are new.
share_globals <- function(bridge, globals) {
  keys <- character(0L)
  for (name in names(globals)) {
    bytes <- plain_bytes(globals[[name]])
    if (bytes > 0) keys <- c(keys, share(bridge, name, globals[[name]], bytes))
  }
  keys
}

share <- function(bridge, name, value, bytes) {
  for (key in rev(names(bridge$shared))) {
    entry <- bridge$shared[[key]]
    if (entry$name == name && entry$bytes == bytes && identical(entry$copy, value)) {
      # What was used last is forgotten last.
      bridge$shared[[key]] <- NULL
      entry$users <- entry$users + 1L
      bridge$shared[[key]] <- entry
      return(key)
    }
  }
  path <- new_input(bridge)
  write_object(list(name = name, value = value), path)
  key <- basename(path)
  bridge$shared[[key]] <- list(name = name, bytes = bytes, path = path, users = 1L)
  forget(bridge)
  key
}

# Keeps copies of those that are new, to know them again. Nobody else has a copy's memory: data.table, and C code, may change an object where it is.
remember <- function(bridge, keys, globals) {
  for (key in keys) {
    entry <- bridge$shared[[key]]
    if (is.null(entry$copy) && entry$bytes <= remembered_bytes) {
      value <- globals[[entry$name]]
      copy <- unclass(value)[]
      attributes(copy) <- attributes(value)
      bridge$shared[[key]]$copy <- copy
    }
  }
}

release <- function(bridge, key) {
  bridge$shared[[key]]$users <- bridge$shared[[key]]$users - 1L
  forget(bridge)
}

forget <- function(bridge) {
  for (key in names(bridge$shared)) {
    bytes <- sum(vapply(bridge$shared, function(entry) entry$bytes, 0))
    if (length(bridge$shared) <= remembered && bytes <= remembered_bytes) break
    if (bridge$shared[[key]]$users == 0L) {
      unlink(bridge$shared[[key]]$path)
      bridge$shared[[key]] <- NULL
    }
  }
}

new_input <- function(bridge) {
  bridge$next_input <- (bridge$next_input %||% 0L) + 1L
  file.path(bridge$inputs, bridge$next_input)
}

write_object <- function(object, path) {
  to <- file(path, "wb")
  on.exit(close(to))
  serialize(object, to, xdr = FALSE)
}

# Says what is large before it is sent.
tell_size <- function(future, bytes) {
  if (bytes <= told_bytes) return()
  sizes <- vapply(future$globals, function(value) as.numeric(utils::object.size(value)), 0)
  sizes <- utils::head(sort(sizes, decreasing = TRUE), 3L)
  largest <- paste0(sQuote(names(sizes)), " (", vapply(sizes, megabytes, ""), ")", collapse = ", ")
  tell("future ", label_of(future), " sends ", megabytes(bytes), "; its largest globals: ", largest)
}

megabytes <- function(bytes) paste(format(bytes / 1024^2, digits = 2L, nsmall = 1L), "MiB")
