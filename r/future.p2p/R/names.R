# Who one is on the board, and what a cluster is called where nobody says.

seen_names <- new.env(parent = emptyenv())

pico_username <- function(host = NULL, ssh_args = NULL, timeout = 10) {
  there <- way(host = host, ssh_args = ssh_args)
  variables <- Sys.getenv(c("P2P_BOARD", "P2P_USER", "P2P_IDENTITY", "P2P_SSH_ARGS", "P2P_HOME"))
  key <- paste(c("", there, variables), collapse = "\n")
  if (is.null(seen_names[[key]])) {
    answer <- ask_program(c("id", there), timeout)
    seen_names[[key]] <- structure(answer$user, class = "pico_username")
  }
  seen_names[[key]]
}

print.pico_username <- function(x, ...) {
  cat(x, "\n", sep = "")
  invisible(x)
}

p2p_cluster_name <- function(users = character(0L), host = NULL, ssh_args = NULL) {
  name <- getOption("future.p2p.cluster", Sys.getenv("P2P_CLUSTER"))
  if (nzchar(name)) return(name)
  user <- as.character(pico_username(host = host, ssh_args = ssh_args))
  paste0(user, "/", if (length(setdiff(users, user)) == 0L) "personal" else "friends")
}
