# Whoever dies, and however: a message, no process, no file.

# The processes with this word in their command line.
processes_with <- function(word) {
  files <- Sys.glob("/proc/[0-9]*/cmdline")
  lines <- vapply(files, function(file) {
    tryCatch(suppressWarnings(rawToChar(replace(b <- readBin(file, "raw", 1e5), b == 0, as.raw(32)))), error = function(fault) "")
  }, "")
  as.integer(basename(dirname(files[grepl(word, lines, fixed = TRUE)])))
}

test_that("the R session of a future dies: its last words, and the next future finds another one", {
  with_plan({
    f <- future::future({
      system("echo last words >&2")
      Sys.sleep(0.2)
      tools::pskill(Sys.getpid(), 9)
      Sys.sleep(60)
    })
    expect_error(
      suppressMessages(capture.output(future::value(f), type = "message")),
      "signal 9 ended: Its last words: last words", class = "FutureInterruptError"
    )
    expect_error(future::value(future::future(quit(status = 3))), "ended", class = "FutureError")
    expect_equal(future::value(future::future(1)), 1)
  })
})

test_that("a worker is killed: its future starts on another one", {
  shared_cluster()
  there <- tempfile()
  first <- start_worker("bob", 1L, c("--label", "moving"))
  with_plan(
    {
      f <- future::future({
        cat(Sys.getpid(), "\n", file = there, append = TRUE)
        while (!file.exists(paste0(there, ".go"))) Sys.sleep(0.02)
        "done"
      })
      until(file.exists(there))
      second <- start_worker("bob", 1L, c("--label", "moving"))
      on.exit(second$kill())
      first$kill(grace = 0)
      said <- capture.output(type = "message", {
        while (length(readLines(there)) < 2L) future::resolved(f)
        file.create(paste0(there, ".go"))
        expect_equal(future::value(f), "done")
      })
      expect_match(paste(said, collapse = "\n"), "future <unnamed-[0-9]+>: bob@.* was lost, it starts again elsewhere")
    },
    labels = "moving"
  )
  # The session of the first one ended with it.
  pids <- as.integer(readLines(there))
  until(!dir.exists(file.path("/proc", pids[[1L]])))
  expect_false(dir.exists(file.path("/proc", pids[[1L]])))
})

test_that("a worker is killed, and the future must not run twice: an error that names it", {
  shared_cluster()
  there <- tempfile()
  only <- start_worker("bob", 1L, c("--label", "lonely"))
  with_plan(
    {
      f <- future::future({
        file.create(there)
        Sys.sleep(600)
      })
      until(file.exists(there))
      only$kill(grace = 0)
      # The notice that its connection broke comes first.
      capture.output(type = "message", expect_error(future::value(f), "on bob@.* was lost", class = "FutureInterruptError"))
    },
    labels = "lonely", retry = FALSE, grace = 2
  )
})

test_that("the bridge is killed: what ran is lost, with a message, and the plan goes on with another one", {
  with_plan({
    f <- future::future(Sys.sleep(600))
    bridge <- future.p2p:::bridge_of(future::plan("backend"))
    tools::pskill(bridge$process$get_pid(), 9L)
    expect_error(future::value(f), "the program p2p that serves this plan ended \\(signal 9\\)", class = "FutureError")
    expect_equal(future::value(future::future(2)), 2)
    expect_false(identical(future.p2p:::bridge_of(future::plan("backend")), bridge))
  })
})

test_that("what a bridge said before it ended counts", {
  future <- new.env()
  future$p2p <- new.env()
  future$backend <- new.env()
  future$backend$counters <- c(finished = 0L)
  future$backend$runtime <- 0
  bridge <- new.env()
  bridge$owner <- Sys.getpid()
  bridge$tasks <- list2env(list("1" = future))
  bridge$unfinished <- 1L
  bridge$handled <- 0L
  bridge$news <- 0
  bridge$shared <- list()
  bridge$over <- "it ended"
  bridge$answers <- list(list(is = "ended", task = 1L, how = "exit", code = 0L, ran_ms = 1L))
  future.p2p:::pump(bridge)
  expect_equal(future$p2p$end$how, "exit")
  expect_equal(bridge$unfinished, 0L)
})

test_that("this R is killed in mid-future: no process stays, and no file", {
  shared_cluster()
  there <- tempfile()
  folder <- tempfile("client")
  dir.create(folder)
  code <- sprintf(
    "future::plan(future.p2p::cluster); there <- '%s'; big <- runif(1e6);
     f <- future::future({ cat(Sys.getpid(), file = there); length(big); Sys.sleep(600) }); future::value(f)", there
  )
  client <- processx::process$new(
    file.path(R.home("bin"), "Rscript"), c("-e", code), stdout = tempfile(), stderr = "2>&1",
    env = c("current", TMPDIR = folder, R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
  )
  until(file.exists(there) && length(readLines(there, warn = FALSE)) == 1L)
  expect_length(processes_with(folder), 1L)
  client$kill(grace = 0)
  session <- as.integer(readLines(there, warn = FALSE))
  until(length(processes_with(folder)) == 0L && !dir.exists(file.path("/proc", session)))
  expect_length(processes_with(folder), 0L)
  expect_false(dir.exists(file.path("/proc", session)))
  # R's own empty folder is all that is left where R cannot clean up.
  expect_length(list.files(folder, recursive = TRUE, all.files = TRUE), 0L)
})

test_that("an interrupt ends the waiting, and not the future", {
  shared_cluster()
  there <- tempfile()
  code <- sprintf(
    "future::plan(future.p2p::cluster); go <- '%s'
     f <- future::future({ while (!file.exists(go)) Sys.sleep(0.01); 'done' })
     cat('waiting\n'); flush(stdout())
     said <- tryCatch(future::value(f), interrupt = function(interrupt) 'interrupted')
     file.create(go); cat(said, future::value(f), '\n')", there
  )
  client <- processx::process$new(
    file.path(R.home("bin"), "Rscript"), c("-e", code), stdout = "|", stderr = "2>&1",
    env = c("current", R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
  )
  on.exit(client$kill())
  said <- character(0L)
  until({
    client$poll_io(100)
    said <- c(said, client$read_output_lines())
    "waiting" %in% said
  })
  client$interrupt()
  client$wait(30000)
  expect_match(client$read_all_output(), "interrupted done")
})

test_that("a bridge that nobody has any more ends", {
  shared_cluster()
  backend <- P2PFutureBackend()
  bridge <- future.p2p:::bridge_of(backend)
  process <- bridge$process
  rm(backend, bridge)
  gc()
  gc()
  until(!process$is_alive())
  expect_false(process$is_alive())
})

test_that("an idle plan needs no time of a processor", {
  with_plan({
    future::value(future::future(1))
    bridge <- future.p2p:::bridge_of(future::plan("backend"))
    used <- function() {
      fields <- strsplit(sub(".*\\) ", "", readLines(file.path("/proc", bridge$process$get_pid(), "stat"))), " ")[[1L]]
      sum(as.numeric(fields[12:13]))
    }
    before <- used()
    Sys.sleep(3)
    # In hundredths of a second; beats to board and worker take some.
    expect_lte(used() - before, 10)
  })
})
