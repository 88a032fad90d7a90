# What one is told when something is wrong.

plan_of <- function(user = "alice", ...) {
  shared_cluster()
  do.call(Sys.setenv, as.list(variables(user)))
  on.exit(do.call(Sys.setenv, as.list(variables("alice"))))
  old <- future::plan("list")
  on.exit(future::plan(old), add = TRUE)
  future::plan(future.p2p::cluster, ...)
  future::value(future::future(1))
}

test_that("without the program, one is told how to get it", {
  program()
  old <- options(future.p2p.executable = "/nowhere/p2p")
  on.exit(options(old))
  expect_error(plan_of(), "not at ./nowhere/p2p., where option future.p2p.executable", class = "FutureError")
  options(old)
  found <- Sys.getenv(c("P2P_EXECUTABLE", "PATH"))
  on.exit(do.call(Sys.setenv, as.list(found)), add = TRUE)
  Sys.setenv(P2P_EXECUTABLE = "", PATH = "/nowhere")
  expect_error(future.p2p:::executable(), "the program p2p is missing: it makes the connections. Build it with", class = "FutureError")
})

test_that("the program and the package must understand each other", {
  check <- future.p2p:::check_program
  expect_silent(check(list(version = "0.1.0", protocol = 1L)))
  expect_error(check(list(version = "9.0.0", protocol = 2L)), "p2p is 9.0.0 .*they do not understand each other; update the package")
  expect_error(check(list(version = "0.0.1", protocol = 0L)), "update the program")
  expect_error(check(list(version = "0.0.9", protocol = 1L)), "which needs 0.1.0: update the program")
})

test_that("who is not on the list is told so", {
  said <- capture.output(fault <- tryCatch(suppressWarnings(plan_of("carol", wait = 5)), error = identity), type = "message")
  expect_s3_class(fault, "FutureError")
  expect_match(paste(c(said, conditionMessage(fault)), collapse = "\n"), "the board does not let you into alice/friends: you are not on its list")
})

test_that("a cluster that nobody hosts is waited for, and not for ever", {
  said <- capture.output(fault <- tryCatch(plan_of(cluster = "bob/nothing", wait = 5), error = identity), type = "message")
  expect_s3_class(fault, "FutureError")
  expect_match(paste(c(said, conditionMessage(fault)), collapse = "\n"), "does not let you into bob/nothing.*waited 5 s")
})

test_that("a cluster without R is warned about", {
  local_mocked_bindings(first_look = 1, .package = "future.p2p")
  shared_cluster()
  none <- start(c("worker", "--rscript", "none"), variables("alice", "alice/personal"), "at work for")$process
  on.exit(none$kill())
  old <- future::plan("list")
  on.exit(future::plan(old), add = TRUE)
  expect_warning(
    future::plan(future.p2p::cluster, cluster = "alice/personal"),
    "cluster alice/personal has no worker with R now \\(1 without\\).*Rscript -e future.p2p::worker --cluster=alice/personal"
  )
  expect_equal(future::nbrOfWorkers(), 1)
})

test_that("a board that is not there is named", {
  fault <- tryCatch(suppressWarnings(plan_of(host = "127.0.0.1:1", wait = 5)), error = identity)
  expect_match(conditionMessage(fault), "127.0.0.1:1")
})

test_that("a package that the worker lacks is named", {
  with_plan({
    f <- future::future(1, packages = "noSuchPackage")
    expect_error(future::value(f), "has no package noSuchPackage", class = "FutureError")
  })
})

test_that("labels choose workers", {
  with_plan(expect_equal(future::value(future::future(1)), 1), labels = paste0("r-", getRversion()))
  said <- capture.output(
    fault <- tryCatch(with_plan(future::value(future::future(1)), labels = "r-0.1", wait = 3), error = identity), type = "message"
  )
  expect_match(paste(c(said, conditionMessage(fault)), collapse = "\n"), "r-0.1")
})

test_that("other versions of R are warned about", {
  bob <- list(name = "bob@attic:1", runtimes = list("r"), labels = list("r-3.6.0", "r-future-1.70.0"), slots = 2L)
  expect_warning(future.p2p:::warn_of_versions(list(bob)), "another one on bob@attic:1 \\(3.6.0\\)")
  bob$labels[[1L]] <- paste0("r-", getRversion())
  if (getRversion() >= "4.4.0") expect_silent(future.p2p:::warn_of_versions(list(bob)))
})

test_that("an R that runs what it reads is warned about", {
  local_mocked_bindings(safe_r = "99.0", .package = "future.p2p")
  expect_warning(future.p2p:::warn_of_versions(list()), "runs code that is hidden in data .*use R 99.0 or newer, or trust every worker")
})

test_that("a result that was not asked for before the plan was changed is gone, and it is said why", {
  shared_cluster()
  old <- future::plan(future.p2p::cluster)
  f <- future::future(1)
  while (!future::resolved(f)) NULL
  future::plan(old)
  expect_error(future::value(f), "the plan was changed before it was asked for", class = "FutureError")
})

test_that("a result that is too large is not read", {
  with_plan(
    {
      expect_error(future::value(future::future(runif(1e6))), "its result has 7.6 MiB, and option future.globals.maxSize allows 1.0 MiB", class = "FutureError")
      expect_equal(future::value(future::future(1)), 1)
    },
    maxSizeOfObjects = 1024^2
  )
})

test_that("what is no result is not read", {
  with_plan({
    f <- future::future(1)
    future::value(f)
    write <- function(bytes) {
      path <- tempfile()
      writeBin(bytes, path)
      path
    }
    read <- function(object) conditionMessage(future.p2p:::read_result(f, write(if (is.raw(object)) object else serialize(object, NULL, xdr = FALSE))))
    expect_match(read(raw(0L)), "is not the result of a future, and was not read")
    expect_match(read(as.raw(rep(0:255, 10))), "was not read")
    expect_match(read(quote(stop("run me"))), "was not read")
    expect_match(read(function() stop("run me")), "was not read")
    expect_match(read(as.list(1:100)), "was not read")
    expect_match(read(structure(as.list(1:100), class = "other")), "an object of class .other.")
    result <- f$result
    result$uuid <- "another"
    expect_match(read(result), "the result of another future")
    cut <- serialize(f$result, NULL, xdr = FALSE)
    expect_match(read(cut[seq_len(length(cut) %/% 2L)]), "cannot be read")
  })
})

test_that("a worker that sends rubbish costs only the futures that it had", {
  hostile <- tempfile()
  rubbish <- "writeBin(as.raw(rep(0:255, 40)), to)"
  writeLines(c(
    "#!/bin/sh",
    paste0("[ \"$2\" != session.R ] || sed -i 's/serialize(result, to, xdr = FALSE)/", rubbish, "/' session.R"),
    paste0("exec ", file.path(R.home("bin"), "Rscript"), " \"$@\"")
  ), hostile)
  Sys.chmod(hostile, "0755")
  shared_cluster()
  bad <- start(c("worker", "--slots", "1", "--rscript", hostile, "--label", "bad"), variables("bob"), "at work for")$process
  on.exit(bad$kill())
  with_plan(
    expect_error(future::value(future::future(1)), "what bob@.* sent is not the result of a future, and was not read", class = "FutureError"),
    labels = "bad"
  )
})
