# One round measures every plan, one after the other, so that they share the machine's moods; a figure is the median of the rounds. The cluster is a board, a host
# and a worker with two slots, each a process of its own, on loopback.
rounds <- as.integer(commandArgs(trailingOnly = TRUE)[[1L]])
package <- "r/future.p2p"
library_folder <- tempfile("library")
dir.create(library_folder)
.libPaths(c(library_folder, .libPaths()))
utils::install.packages(package, repos = NULL, type = "source", lib = library_folder, quiet = TRUE)
source(file.path(package, "tests/testthat/helper-cluster.R"))
library(future)
# Whatever draws draws nowhere.
options(device = function(...) grDevices::pdf(NULL))

elapsed <- function(code) system.time(code)[["elapsed"]]
megabytes_50 <- function() runif(50e6 / 8)

figures <- list(
  "one future, median of 20" = function() median(replicate(20L, elapsed(value(future(1))))),
  "100 futures" = function() elapsed(value(lapply(1:100, function(i) future(i)))),
  "future_lapply of 1,000" = function() elapsed(future.apply::future_lapply(1:1000, function(i) i)),
  "50 MB to one future" = function() {
    x <- megabytes_50()
    elapsed(value(future(length(x))))
  },
  "the same 50 MB to 20" = function() {
    x <- megabytes_50()
    elapsed(value(lapply(1:20, function(i) future(length(x) + i))))
  },
  "mandelbrot demo, 9 tiles" = function() {
    pdf(NULL)
    on.exit(dev.off())
    elapsed(suppressWarnings(suppressMessages(utils::demo("mandelbrot", package = "future", ask = FALSE, echo = FALSE))))
  }
)
bounds <- c(0.5, 0.5, 1, 1, 0.3, 1)

plans <- list(
  p2p = function() plan(future.p2p::cluster),
  multisession = function() plan(multisession, workers = 2L),
  sequential = function() plan(sequential)
)

cluster <- shared_cluster()
measured <- array(dim = c(length(figures), length(plans), rounds), dimnames = list(names(figures), names(plans), NULL))
for (round in seq_len(rounds)) {
  for (name in names(plans)) {
    plans[[name]]()
    # What is started first is not measured.
    for (i in 1:4) value(future(i))
    for (figure in names(figures)) measured[figure, name, round] <- figures[[figure]]()
    plan(sequential)
  }
}

medians <- apply(measured, 1:2, median)
ratio <- medians[, "p2p"] / medians[, "multisession"]
rows <- sprintf(
  "| %s | %.4f s | %.4f s | %.4f s | %.2f | <= %.1f x | %s |", names(figures), medians[, "p2p"], medians[, "multisession"], medians[, "sequential"],
  ratio, bounds, ifelse(ratio <= bounds, "pass", "MISSED")
)

ticks <- function(pids) {
  sum(vapply(pids, function(pid) {
    fields <- strsplit(sub(".*\\) ", "", readLines(file.path("/proc", pid, "stat"))), " ")[[1L]]
    sum(as.numeric(fields[12:13]))
  }, 0))
}
plans$p2p()
invisible(value(future(1)))
worker <- cluster$worker$get_pid()
pids <- c(ps_children(Sys.getpid()), worker, ps_children(worker))
idle <- 20
before <- ticks(unique(pids))
Sys.sleep(idle)
used <- (ticks(unique(pids)) - before) / 100 / idle
plan(sequential)

cat(
  paste0("R ", getRversion(), ", future ", packageVersion("future"), ", ", rounds, " rounds, ", parallel::detectCores(), " cores"), "",
  "| figure | p2p | multisession, 2 workers | sequential | ratio to multisession | bound | |", "|---|---|---|---|---|---|---|", rows,
  sprintf("| idle: hub, host, worker, its R sessions and the client together | %.2f %% of a core | | | | | |", 100 * used), "",
  sep = "\n"
)
quit("no", status = as.integer(any(ratio > bounds)))
