library(testthat)
library(future.p2p)
test_check("future.p2p")
