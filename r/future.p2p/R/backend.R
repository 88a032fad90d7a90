# The plan: which cluster, and who is in it.

# How long plan() waits for the first worker that has R, seconds.
first_look <- 10
# The first R whose readRDS() and unserialize() run nothing by themselves (CVE-2024-27322).
safe_r <- "4.4.0"

P2PFutureBackend <- function(cluster = getOption("future.p2p.cluster"), host = NULL, ssh_args = NULL,
                             wait = getOption("future.p2p.wait", 300), grace = getOption("future.p2p.grace", 60), labels = character(0L),
                             retry = TRUE, ...) {
  stopifnot(is.logical(retry), length(retry) == 1L, !is.na(retry), is.character(labels))
  core <- future::MultiprocessFutureBackend(
    cluster = cluster, host = host, ssh_args = ssh_args, wait = wait, grace = grace, labels = labels, retry = retry, ...
  )
  core$futureClasses <- c("P2PFuture", core$futureClasses)
  structure(core, class = c("P2PFutureBackend", class(core)))
}

# The arguments of a plan are those of its backend.
strategy <- function() {
  own <- setdiff(names(formals(P2PFutureBackend)), "...")
  strategy <- function(...) {
    stop("future.p2p::cluster is not called, but given to plan(): plan(future.p2p::cluster, cluster = \"alice/friends\")", call. = FALSE)
  }
  formals(strategy) <- formals(P2PFutureBackend)[c("...", own)]
  structure(
    strategy,
    class = c("p2p_cluster", "multiprocess", "future", "function"), init = TRUE, factory = P2PFutureBackend, tweakable = own
  )
}

cluster <- strategy()
pico_p2p <- cluster

# The bridge of this plan. One that ended is replaced.
bridge_of <- function(backend) {
  bridge <- backend$bridge
  if (is.null(bridge) || !is.null(bridge$over) || bridge$owner != Sys.getpid()) {
    bridge <- start_bridge(backend)
    backend$bridge <- bridge
    look_first(bridge)
  }
  bridge
}

# Waits until somebody is there who has R, and says what one should know before the work starts.
look_first <- function(bridge) {
  status <- look(bridge, first_look)
  with_r <- r_workers(status)
  others <- length(status$workers) - length(with_r)
  if (length(with_r) == 0L) {
    warning(
      "cluster ", bridge$ready$cluster, " has no worker with R now",
      if (others > 0L) paste0(" (", others, " without)"), if (!is.null(bridge$why)) paste0(": ", bridge$why),
      ". Futures wait for one. A friend adds one by: Rscript -e future.p2p::worker --cluster=", bridge$ready$cluster,
      call. = FALSE, immediate. = TRUE
    )
  }
  warn_of_versions(with_r)
}

warn_of_versions <- function(workers) {
  versions <- vapply(workers, r_version, "")
  names(versions) <- vapply(workers, function(worker) worker$name, "")
  versions <- versions[!is.na(versions)]
  minor <- function(version) sub("^([0-9]+[.][0-9]+).*$", "\\1", version)
  other <- versions[minor(versions) != minor(as.character(getRversion()))]
  if (length(other) > 0L) {
    warning(
      "R is ", getRversion(), " here, and another one on ", paste0(names(other), " (", other, ")", collapse = ", "),
      ": packages and numbers may differ; labels = \"r-VERSION\" in plan() takes only workers that have that version",
      call. = FALSE
    )
  }
  if (getRversion() < safe_r) {
    warning(
      "R ", getRversion(), " runs code that is hidden in data which it reads (CVE-2024-27322), and results are such data: ",
      "use R ", safe_r, " or newer, or trust every worker", call. = FALSE
    )
  }
}

r_workers <- function(status) {
  Filter(function(worker) "r" %in% unlist(worker$runtimes) && !isTRUE(worker$leaving), status$workers)
}

r_version <- function(worker) {
  version <- grep("^r-[0-9]", unlist(worker$labels), value = TRUE)
  if (length(version) == 0L) NA_character_ else sub("^r-", "", version[[1L]])
}

slots <- function(status) sum(0L, vapply(r_workers(status), function(worker) as.integer(worker$slots), 0L))

nbrOfWorkers.P2PFutureBackend <- function(evaluator) {
  bridge <- bridge_of(evaluator)
  max(1L, slots(look(bridge)))
}

nbrOfFreeWorkers.P2PFutureBackend <- function(evaluator, background = FALSE, ...) {
  bridge <- bridge_of(evaluator)
  status <- look(bridge)
  busy <- sum(0L, vapply(r_workers(status), function(worker) as.integer(worker$busy %||% 0L), 0L))
  # What others have running there, and what is on its way from here.
  max(0L, slots(status) - max(busy, bridge$unfinished))
}

listFutures.P2PFutureBackend <- function(backend, ...) {
  bridge <- backend$bridge
  futures <- if (is.null(bridge)) list() else unname(as.list(bridge$tasks))
  data <- data.frame(
    counter = vapply(futures, function(future) as.integer(utils::tail(future$uuid, 1L)), 0L),
    start = vapply(futures, function(future) as.numeric(future$start %||% NA), 0),
    label = vapply(futures, function(future) future$label %||% NA_character_, ""),
    resolved = vapply(futures, function(future) !is.null(future$p2p$end), NA)
  )
  data$future <- lapply(futures, list)
  data[order(data$counter), ]
}

stopWorkers.P2PFutureBackend <- function(backend, interrupt = TRUE, ...) {
  bridge <- backend$bridge
  if (!is.null(bridge)) close_bridge(bridge)
  backend$bridge <- NULL
  invisible(TRUE)
}

print.P2PFutureBackend <- function(x, ...) {
  NextMethod()
  status <- look(bridge_of(x))
  away <- isTRUE(status$host$needed) && !isTRUE(status$host$present)
  cat("P2P cluster: ", status$cluster, if (away) " (its host is away: nobody new can enter)", "\n", sep = "")
  if (length(status$workers) == 0L) {
    cat("Peers: none that offers work\n")
  } else {
    rows <- lapply(status$workers, function(worker) {
      data.frame(
        worker = worker$name, R = if (is.na(r_version(worker))) "none" else r_version(worker),
        slots = paste0(worker$busy %||% "?", "/", worker$slots),
        round_trip = if (is.null(worker$round_trip_ms)) "?" else sprintf("%.2f ms", worker$round_trip_ms),
        link = if (worker$link == "none") "not reached" else worker$link
      )
    })
    rows <- do.call(rbind, rows)
    names(rows) <- c("worker", "R", "busy/slots", "round trip", "link")
    cat("Peers:\n")
    print(rows, row.names = FALSE)
  }
  invisible(x)
}
