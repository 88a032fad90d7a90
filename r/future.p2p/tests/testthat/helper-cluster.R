# A board, a host and workers of our own on this machine, with the real program. They end with this R.

program <- function() {
  found <- tryCatch(future.p2p:::executable(), error = function(fault) NULL)
  if (is.null(found) && Sys.getenv("CI") == "true") stop("there is no program p2p: set P2P_EXECUTABLE")
  if (is.null(found)) testthat::skip("there is no program p2p")
  found
}

# Starts the program with these variables, and returns once it says that it is ready; what it says goes to a file.
start <- function(arguments, variables, until, command = program()) {
  log <- tempfile(arguments[[1L]])
  process <- processx::process$new(
    command, arguments, stdout = log, stderr = "2>&1", env = c("current", P2P_WITH_PARENT = "1", variables)
  )
  give_up <- Sys.time() + 60
  repeat {
    said <- readLines(log, warn = FALSE)
    if (any(grepl(until, said, fixed = TRUE))) break
    if (!process$is_alive() || Sys.time() > give_up) stop("p2p ", arguments[[1L]], " is not ready: ", paste(said, collapse = "\n"))
    Sys.sleep(0.02)
  }
  list(process = process, said = said)
}

board <- local({
  board <- NULL
  function() {
    if (!is.null(board)) return(board)
    folder <- tempfile("board")
    dir.create(folder)
    users <- c("alice", "bob", "carol")
    for (user in users) {
      processx::run("ssh-keygen", c("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file.path(folder, user)))
    }
    keys <- vapply(users, function(user) paste(user, readLines(file.path(folder, paste0(user, ".pub")))), "")
    writeLines(keys, file.path(folder, "users"))
    # Pico's own pipe, by the program that is named, or a hub: docs/pico.md.
    pico <- Sys.getenv("P2P_TEST_BOARD") == "pico"
    server <- if (pico) Sys.getenv("P2P_PICO_SERVER") else program()
    options <- c("--listen", "127.0.0.1:0", "--users", file.path(folder, "users"), "--json", if (pico) c("--host-key", file.path(folder, "hub-key")))
    hub <- start(c(if (!pico) "hub", options), c(P2P_HOME = file.path(folder, "hub")), "fingerprint", server)
    line <- jsonlite::parse_json(grep("fingerprint", hub$said, value = TRUE)[[1L]])
    board <<- list(folder = folder, hub = hub$process, address = line$address, key = line$fingerprint)
    board
  }
})

variables <- function(user, cluster = "alice/friends") {
  there <- board()
  c(
    P2P_BOARD = paste0("ssh://", there$address), P2P_BOARD_KEY = there$key, P2P_CLUSTER = cluster, P2P_RELAY = "none",
    P2P_HOME = file.path(there$folder, paste0(user, ".home")), P2P_IDENTITY = file.path(there$folder, user)
  )
}

start_worker <- function(user = "bob", slots = 2L, options = character(0L), cluster = "alice/friends") {
  rscript <- file.path(R.home("bin"), "Rscript")
  start(c("worker", "--slots", slots, "--rscript", rscript, options), variables(user, cluster), "at work for")$process
}

# The cluster that all tests share, with a host and a worker of two slots; this R is alice's.
shared_cluster <- local({
  running <- NULL
  function() {
    if (is.null(running)) {
      # Nobody sits here to compare words, as pico.sh would have it.
      host <- start(c("host", "--users", "bob", "--admit", "auto"), variables("alice"), "is open for")$process
      running <<- list(host = host, worker = start_worker())
    }
    do.call(Sys.setenv, as.list(variables("alice")))
    running
  }
})

with_plan <- function(code, ...) {
  shared_cluster()
  old <- future::plan(future.p2p::cluster, ...)
  on.exit(future::plan(old))
  force(code)
}

# Processes that this one started.
ps_children <- function(pid) {
  files <- Sys.glob(file.path("/proc", pid, "task", "*", "children"))
  as.integer(unlist(lapply(files, function(file) strsplit(trimws(readLines(file, warn = FALSE)), " "))))
}

# Waits until this is true, but no longer than any machine needs.
until <- function(condition, seconds = 30) {
  condition <- substitute(condition)
  envir <- parent.frame()
  give_up <- Sys.time() + seconds
  while (!isTRUE(eval(condition, envir)) && Sys.time() < give_up) Sys.sleep(0.02)
}
