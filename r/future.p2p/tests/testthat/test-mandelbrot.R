test_that("the mandelbrot demo draws the same picture as with a sequential plan, each tile on a worker", {
  skip_if_not(capabilities("cairo"))
  picture <- function() {
    file <- tempfile(fileext = ".png")
    grDevices::png(file, type = "cairo")
    on.exit(grDevices::dev.off())
    # The demo is noisy with any plan.
    suppressWarnings(suppressMessages(utils::demo("mandelbrot", package = "future", ask = FALSE, echo = FALSE, verbose = FALSE)))
    grDevices::dev.off()
    on.exit()
    readBin(file, "raw", file.size(file))
  }
  old <- options(future.demo.mandelbrot.resolution = 100L)
  on.exit(options(old))
  before <- future::plan(future::sequential)
  expected <- picture()
  future::plan(before)
  with_plan({
    expect_identical(picture(), expected)
    expect_equal(future::plan("backend")$counters[["launched"]], 9)
  })
})
