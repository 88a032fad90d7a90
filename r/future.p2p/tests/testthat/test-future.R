# What the Future API promises, on a cluster with one worker of two slots.

test_that("a future is evaluated in another process, with its globals and packages", {
  with_plan({
    a <- 40
    plus <- function(x) x + 2
    f <- future::future(list(pid = Sys.getpid(), value = plus(a), files = utils::head(letters, 1L)))
    v <- future::value(f)
    expect_false(v$pid == Sys.getpid())
    expect_equal(v$value, 42)
    f <- future::future(toTitleCase("word"), packages = "tools")
    expect_equal(future::value(f), "Word")
  })
})

test_that("what a future says comes in order, and an error with its class", {
  with_plan({
    f <- future::future({
      cat("one\n")
      message("two")
      warning("three")
      print("four")
      5
    })
    heard <- character(0L)
    printed <- capture.output(v <- withCallingHandlers(future::value(f),
      message = function(m) {
        heard <<- c(heard, conditionMessage(m))
        invokeRestart("muffleMessage")
      },
      warning = function(w) {
        heard <<- c(heard, conditionMessage(w))
        invokeRestart("muffleWarning")
      }
    ))
    expect_equal(v, 5)
    expect_equal(printed, c("one", "[1] \"four\""))
    expect_equal(heard, c("two\n", "three"))

    f <- future::future(stop(structure(class = c("mine", "error", "condition"), list(message = "no", call = quote(here())))))
    fault <- tryCatch(future::value(f), error = identity)
    expect_s3_class(fault, c("mine", "error", "condition"), exact = TRUE)
    expect_equal(conditionCall(fault), quote(here()))
    inner <- function() stop("deep")
    outer <- function() inner()
    f <- future::future(outer())
    expect_error(future::value(f), "deep")
    expect_true(any(grepl("outer()", vapply(future::backtrace(f), function(call) deparse(call)[[1L]], ""), fixed = TRUE)))
  })
})

test_that("conditions that are not asked for are not relayed, and stdout can be let go", {
  with_plan({
    f <- future::future({
      message("told")
      cat("printed\n")
      1
    }, conditions = character(0L), stdout = FALSE)
    expect_silent(v <- future::value(f))
    expect_equal(v, 1)
  })
})

test_that("random numbers are those of a sequential plan, and this R's own are untouched", {
  draw <- function() {
    set.seed(7)
    fs <- lapply(1:3, function(i) future::future(rnorm(2), seed = TRUE))
    future::value(fs)
  }
  expected <- draw()
  with_plan({
    expect_identical(draw(), expected)
    set.seed(1)
    before <- .Random.seed
    future::value(future::future(1))
    future::nbrOfWorkers()
    expect_identical(.Random.seed, before)
  })
})

test_that("a lazy future starts when it is asked for", {
  with_plan({
    f <- future::future(1, lazy = TRUE)
    expect_equal(f$state, "created")
    expect_equal(future::value(f), 1)
    # Newer versions of future warn of the argument.
    f <- suppressWarnings(future::future(2, lazy = TRUE, gc = TRUE))
    while (!future::resolved(f)) NULL
    expect_equal(future::value(f), 2)
  })
})

test_that("resolved() does not wait for the end", {
  with_plan({
    f <- future::future(Sys.sleep(60))
    took <- system.time(expect_false(future::resolved(f)))
    expect_lt(took[["elapsed"]], 20)
    future::cancel(f)
  })
})

test_that("a future that is cancelled is interrupted, says so, and its slots are free again", {
  with_plan({
    fs <- lapply(1:2, function(i) future::future(Sys.sleep(600)))
    Sys.sleep(0.2)
    future::cancel(fs)
    for (f in fs) expect_error(future::value(f), "was cancelled", class = "FutureInterruptError")
    expect_equal(future::value(future::future("next")), "next")
    again <- future::reset(fs[[1L]])
    again$expr <- quote(3)
    expect_equal(future::value(again), 3)
  })
})

test_that("early signals come before the value is asked for", {
  with_plan({
    f <- suppressWarnings(future::future(stop("early"), earlySignal = TRUE))
    expect_error(while (!future::resolved(f)) NULL, "early")
  })
})

test_that("immediate conditions are signalled while the future runs", {
  with_plan({
    go <- tempfile()
    f <- future::future({
      signalCondition(structure(class = c("immediateCondition", "condition"), list(message = "now", call = NULL)))
      while (!file.exists(go)) Sys.sleep(0.01)
      1
    })
    heard <- character(0L)
    withCallingHandlers(
      while (length(heard) == 0L) future::resolved(f),
      immediateCondition = function(condition) heard <<- c(heard, conditionMessage(condition))
    )
    expect_false(future::resolved(f))
    file.create(go)
    withCallingHandlers(future::value(f), immediateCondition = function(condition) heard <<- c(heard, "once more"))
    expect_equal(heard, "now")
  })
})

test_that("progressr hears of progress", {
  skip_if_not_installed("progressr")
  with_plan({
    heard <- character(0L)
    work <- function() {
      p <- progressr::progressor(3)
      future::value(lapply(1:3, function(i) future::future(p(paste("step", i)))))
    }
    progressr::with_progress(
      withCallingHandlers(work(), progression = function(condition) heard <<- c(heard, conditionMessage(condition))),
      handlers = progressr::handler_void(), enable = TRUE
    )
    expect_setequal(heard, paste("step", 1:3))
  })
})

test_that("what gets around R is shown", {
  with_plan({
    f <- future::future({
      system("echo around")
      1
    })
    expect_equal(capture.output(v <- future::value(f)), "around")
  })
})

test_that("future.apply and furrr work", {
  with_plan({
    skip_if_not_installed("future.apply")
    expect_identical(future.apply::future_sapply(1:20, function(i) i^2), (1:20)^2)
    skip_if_not_installed("furrr")
    expect_identical(furrr::future_map_dbl(1:5, sqrt), sqrt(1:5))
  })
})

test_that("nested plans have their next level on the worker", {
  shared_cluster()
  old <- future::plan(list(future.p2p::cluster, future::tweak(future::multisession, workers = I(1))))
  on.exit(future::plan(old))
  f <- future::future({
    v <- list(inherits(future::plan("next"), "multisession"), future::value(future::future(Sys.getpid())), Sys.getpid())
    # Its workers are to end before the future does.
    future::plan(future::sequential)
    v
  })
  v <- future::value(f)
  expect_true(v[[1L]])
  expect_false(v[[2L]] == v[[3L]])
})

test_that("the number of workers is that of the live cluster", {
  with_plan({
    expect_equal(future::nbrOfWorkers(), 2)
    # A worker says now and then how much it has to do, for others as well.
    until(future::nbrOfFreeWorkers() == 2)
    expect_equal(future::nbrOfFreeWorkers(), 2)
    f <- future::future(Sys.sleep(600))
    expect_equal(future::nbrOfFreeWorkers(), 1)
    more <- start_worker("bob", 1L)
    while (future::nbrOfWorkers() != 3) Sys.sleep(0.05)
    more$interrupt()
    more$wait()
    while (future::nbrOfWorkers() != 2) Sys.sleep(0.05)
    future::cancel(f)
  })
})

test_that("the plan says who is there", {
  with_plan({
    shown <- paste(capture.output(print(future::plan())), collapse = "\n")
    expect_match(shown, "P2P cluster: alice/friends", fixed = TRUE)
    expect_match(shown, paste0("bob@.* +", getRversion(), " .* ms +direct"))
  })
})

test_that("another plan leaves no process, and ends what ran", {
  shared_cluster()
  old <- future::plan(future.p2p::cluster)
  bridge <- future.p2p:::bridge_of(future::plan("backend"))
  f <- future::future(Sys.sleep(600))
  future::plan(old)
  expect_false(bridge$process$is_alive())
  expect_false(dir.exists(bridge$ready$folder))
  expect_error(future::value(f), class = "FutureInterruptError")
})

test_that("a future that cannot be launched says so again and again, and holds nothing", {
  with_plan({
    bridge <- future.p2p:::bridge_of(future::plan("backend"))
    there <- file(tempfile(), "w")
    on.exit(close(there))
    f <- future::future(writeLines("x", there), lazy = TRUE)
    expect_error(future::value(f), "connection", class = "FutureError")
    expect_true(future::resolved(f))
    expect_error(future::value(f), "was not launched", class = "FutureError")
    expect_equal(bridge$unfinished, 0L)
    expect_equal(nrow(future::listFutures(future::plan("backend"))), 0L)
  })
})

test_that("many futures are sent ahead, and no more", {
  with_plan({
    bridge <- future.p2p:::bridge_of(future::plan("backend"))
    most <- 0L
    fs <- lapply(1:40, function(i) {
      f <- future::future(i)
      most <<- max(most, bridge$unfinished)
      f
    })
    expect_equal(unlist(future::value(fs)), 1:40)
    expect_lte(most, 2L * 2L + 8L)
  })
})
