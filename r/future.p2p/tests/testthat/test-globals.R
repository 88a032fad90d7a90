test_that("a large global that many futures have is written once", {
  with_plan({
    big <- rnorm(1e5)
    bridge <- future.p2p:::bridge_of(future::plan("backend"))
    sums <- future::value(lapply(1:10, function(i) future::future(sum(big) + i)))
    expect_equal(unlist(sums), sum(big) + 1:10)
    expect_length(bridge$shared, 1L)
    big[[1L]] <- 0
    expect_equal(future::value(future::future(sum(big))), sum(big))
    expect_length(bridge$shared, 2L)
    # Nothing else stays.
    expect_length(list.files(bridge$inputs), 2L)
  })
})

test_that("an object that was changed where it is goes out as it is now", {
  skip_if_not_installed("data.table")
  with_plan({
    table <- data.table::data.table(a = runif(1e5))
    frame <- data.frame(a = runif(1e5))
    first <- future::value(future::future(c(table$a[[1L]], frame$a[[1L]])))
    expect_identical(first, c(table$a[[1L]], frame$a[[1L]]))
    for (rows in list(table, frame)) data.table::set(rows, 1L, "a", -1)
    expect_identical(table$a[[1L]], -1)
    expect_identical(future::value(future::future(c(table$a[[1L]], frame$a[[1L]]))), c(-1, -1))
  })
})

test_that("several large globals and small ones arrive under their names", {
  with_plan({
    a <- data.frame(x = runif(1e5))
    b <- list(letters, runif(1e5))
    small <- 3
    v <- future::value(future::future(list(a, b, small)))
    expect_identical(v, list(a, b, small))
  })
})

test_that("plain data is told from what has an environment", {
  plain <- future.p2p:::plain_bytes
  expect_gt(plain(runif(1e5)), 0)
  expect_gt(plain(data.frame(x = runif(1e5))), 0)
  expect_gt(plain(list(runif(1e5), "a")), 0)
  expect_gt(plain(rep("a", 1e5)), 0)
  expect_equal(plain(runif(10)), 0)
  expect_equal(plain(list(runif(1e5), globalenv())), 0)
  expect_equal(plain(structure(runif(1e5), around = globalenv())), 0)
  expect_equal(plain(function() 1), 0)
})

test_that("what was remembered is forgotten when there is too much of it", {
  bridge <- new.env()
  bridge$inputs <- tempfile()
  dir.create(bridge$inputs)
  bridge$shared <- list()
  keys <- vapply(1:40, function(i) {
    key <- future.p2p:::share(bridge, "x", i, 300000)
    future.p2p:::remember(bridge, key, list(x = i))
    key
  }, "")
  expect_length(bridge$shared, 40L)
  for (key in keys) future.p2p:::release(bridge, key)
  expect_length(bridge$shared, 32L)
  expect_length(list.files(bridge$inputs), 32L)
})

test_that("connections and pointers are refused, by name", {
  with_plan({
    there <- file(tempfile(), "w")
    on.exit(close(there))
    expect_error(future::future(writeLines("x", there)), "global .there. is, or holds, a connection", class = "FutureError")
    inner <- list(a = 1, b = list(there))
    expect_error(future::future(inner), "inner", class = "FutureError")
    pointer <- processx::process$new("true")$.__enclos_env__$private$status
    expect_equal(typeof(pointer), "externalptr")
    expect_error(future::future(pointer), "external pointer", class = "FutureError")
  })
})

test_that("what is huge is told before it goes", {
  with_plan({
    huge <- raw(110 * 1024^2)
    said <- capture.output(f <- future::future(length(huge)), type = "message")
    expect_match(said, "sends 110.0 MiB; its largest globals: .huge. \\(110.0 MiB\\)")
    expect_equal(future::value(f), 110 * 1024^2)
  })
})
