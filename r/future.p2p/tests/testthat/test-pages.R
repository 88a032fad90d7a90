# What the vignettes and the README show is run, block by block, each page in an R of its own.

blocks_of <- function(page) {
  lines <- readLines(page)
  starts <- which(lines == "```r")
  ends <- which(lines == "```")
  unlist(lapply(starts, function(start) lines[seq(start + 1L, min(ends[ends > start]) - 1L)]))
}

test_that("pages say what works", {
  folders <- c(test_path("../../vignettes"), system.file("doc", package = "future.p2p"))
  pages <- c(Sys.glob(file.path(folders, "*.Rmd")), Sys.glob(Sys.getenv("P2P_README")))
  skip_if(length(pages) == 0L, "this installation has no vignettes")
  shared_cluster()
  for (page in pages) {
    script <- tempfile(fileext = ".R")
    writeLines(blocks_of(page), script)
    done <- processx::run(
      file.path(R.home("bin"), "Rscript"), script, error_on_status = FALSE, timeout = 300, stderr_to_stdout = TRUE,
      env = c("current", R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
    )
    expect_equal(done$status, 0L, info = paste(basename(page), done$stdout))
  }
})
