# The program p2p: where it is, how it is asked, and how a cluster, a host and SSH's options are told to it.

# The oldest program that this package works with, and what its bridge speaks.
oldest_program <- "0.1.0"
bridge_protocol <- 1L

executable <- function() {
  named <- getOption("future.p2p.executable", Sys.getenv("P2P_EXECUTABLE"))
  if (nzchar(named)) {
    found <- Sys.which(path.expand(named))
    if (!nzchar(found)) {
      stop_future("the program p2p is not at ", sQuote(named), ", where option future.p2p.executable or P2P_EXECUTABLE has it: set it to where it is")
    }
    return(unname(found))
  }
  beside <- file.path(system.file(package = "future.p2p"), "bin", "p2p")
  found <- Sys.which(c("p2p", beside))
  found <- found[nzchar(found)]
  if (length(found) == 0L) {
    stop_future(
      "the program p2p is missing: it makes the connections. Build it with 'cargo install --path p2p-cli' in a checkout of p2p, and put it on ",
      "the PATH, at ", beside, ", or name it by option future.p2p.executable or P2P_EXECUTABLE"
    )
  }
  unname(found[[1L]])
}

# The way to a cluster, in the program's words.
way <- function(cluster = NULL, host = NULL, ssh_args = NULL) {
  c(
    if (!is.null(cluster)) paste0("--cluster=", one_word(cluster, "cluster")),
    if (!is.null(host)) paste0("--board=", board(one_word(host, "host"))),
    if (length(ssh_args) > 0L) paste0("--ssh-args=", paste(ssh_args, collapse = " "))
  )
}

board <- function(host) {
  # Either name of it has been used for the account's server.
  if (host == "pico.sh") host <- "pipe.pico.sh"
  if (grepl("://", host, fixed = TRUE)) host else paste0("ssh://", host)
}

one_word <- function(value, name) {
  if (!is.character(value) || length(value) != 1L || is.na(value) || !nzchar(value)) {
    stop_future("'", name, "' must be one word, and is ", paste(deparse(value), collapse = " "))
  }
  as.character(value)
}

# Asks for something in JSON.
ask_program <- function(arguments, timeout) {
  done <- processx::run(executable(), c(arguments, "--json"), error_on_status = FALSE, timeout = timeout, stdin = NULL)
  if (done$timeout) {
    stop_future("p2p ", arguments[[1L]], " had no answer after ", timeout, " s: is the network up? 'p2p doctor' says what is wrong")
  }
  if (done$status != 0L) stop_future(plain(done$stderr))
  jsonlite::parse_json(done$stdout)
}

# What the program said about its failure, without its name in front.
plain <- function(text) sub("^p2p: ", "", trimws(paste(text, collapse = "\n")))

stop_future <- function(..., future = NULL) stop(future::FutureError(paste0(...), future = future))

# To the person at this R, and not into what futures signal.
tell <- function(...) cat("[future.p2p] ", ..., "\n", file = stderr(), sep = "")
