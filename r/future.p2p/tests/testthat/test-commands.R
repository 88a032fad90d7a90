rscript <- function(...) {
  processx::run(
    file.path(R.home("bin"), "Rscript"), c("-e", ...),
    error_on_status = FALSE, stderr_to_stdout = TRUE, timeout = 60,
    env = c("current", R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
  )
}

test_that("arguments of Rscript -e become those of the function", {
  named <- future.p2p:::named_arguments
  expect_equal(
    named(c("--users=bob,carol", "--ssh_args", "-J somehost", "--cluster=a/b"), c("users", "cluster", "ssh_args")),
    list(users = "bob,carol", ssh_args = "-J somehost", cluster = "a/b")
  )
  expect_equal(named("--ssh-args=-v", "ssh_args"), list(ssh_args = "-v"))
  expect_error(named("--frobnicate=1", c("users", "cluster")), "there is no option --frobnicate=1; there are --users=..., --cluster=...", fixed = TRUE)
  expect_error(named("bob", "users"), "no option bob")
  expect_error(named("--users", "users"), "needs a value")
})

test_that("a wrong option of a command ends Rscript with its exit code", {
  done <- rscript("future.p2p::worker", "--clutter=alice/friends")
  expect_equal(done$status, 2L)
  expect_match(done$stdout, "there is no option --clutter=alice/friends", fixed = TRUE)
})


test_that("durations are seconds or words", {
  expect_equal(future.p2p:::time(60 * 60), "3600s")
  expect_equal(future.p2p:::time("1209600"), "1209600s")
  expect_equal(future.p2p:::time("2h"), "2h")
  expect_error(future.p2p:::time(character(0L)), "must be one word")
})

test_that("the way to a cluster is told in the program's words", {
  expect_equal(
    future.p2p:::way("alice/friends", "pico.sh", c("-J", "somehost")),
    c("--cluster=alice/friends", "--board=ssh://pipe.pico.sh", "--ssh-args=-J somehost")
  )
  expect_equal(future.p2p:::way(host = "ssh://127.0.0.1:2222"), "--board=ssh://127.0.0.1:2222")
  expect_null(future.p2p:::way())
  expect_error(future.p2p:::way(c("a/b", "c/d")), "'cluster' must be one word", fixed = TRUE)
})

test_that("one's name, and the cluster where none is named", {
  shared_cluster()
  expect_equal(as.character(pico_username()), "alice")
  expect_output(print(pico_username()), "^alice$")
  expect_equal(p2p_cluster_name(), "alice/friends")
  Sys.unsetenv("P2P_CLUSTER")
  on.exit(shared_cluster())
  expect_equal(p2p_cluster_name(), "alice/personal")
  expect_equal(p2p_cluster_name(users = "alice"), "alice/personal")
  expect_equal(p2p_cluster_name(users = "bob"), "alice/friends")
  old <- options(future.p2p.cluster = "carol/lab")
  expect_equal(p2p_cluster_name(users = "bob"), "carol/lab")
  options(old)
})

test_that("the commands of the documentation make a cluster, and end with their R", {
  skip_if(Sys.getenv("P2P_TEST_BOARD") == "pico", "there a person compares words")
  there <- board()
  # An R that is killed leaves its own folder.
  folder <- tempfile("killed")
  dir.create(folder)
  run <- function(user, ...) {
    words <- c("-e", ..., paste0("--host=", there$address))
    processx::process$new(
      file.path(R.home("bin"), "Rscript"), words, stdout = tempfile(), stderr = "2>&1",
      env = c("current", variables(user), TMPDIR = folder, R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
    )
  }
  wait_for <- function(process, what) {
    while (!any(grepl(what, readLines(process$get_output_file(), warn = FALSE), fixed = TRUE))) {
      if (!process$is_alive()) stop(paste(readLines(process$get_output_file()), collapse = "\n"))
      Sys.sleep(0.05)
    }
  }
  host <- run("alice", "future.p2p::host_cluster", "--users=bob,carol", "--cluster=alice/lab")
  wait_for(host, "is open for")
  worker <- run("bob", "future.p2p::worker", "--cluster=alice/lab")
  wait_for(worker, "at work for")
  # The same as a function, under its older name.
  older <- run("carol", "future.p2p::pico_p2p_worker(cluster = 'alice/lab', ssh_args = c('-o', 'ConnectTimeout=30'), duration = 600)")
  wait_for(older, "at work for")

  shared_cluster()
  old <- future::plan(future.p2p::pico_p2p, cluster = "alice/lab", host = there$address, ssh_args = c("-o", "ConnectTimeout=30"))
  on.exit(future::plan(old))
  expect_equal(future::nbrOfWorkers(), 2)
  expect_equal(future::value(future::future(6 * 7)), 42)
  future::plan(old)

  children <- unlist(lapply(list(host, worker, older), function(process) {
    vapply(ps_children(process$get_pid()), identity, 0L)
  }))
  expect_length(children, 3L)
  # One is asked to end, one is killed, one leaves.
  host$signal(15L)
  worker$kill(grace = 0)
  # As Ctrl-C at a terminal: everybody in its group.
  system2("/bin/kill", c("-INT", "--", paste0("-", older$get_pid())))
  for (process in list(host, worker, older)) process$wait(20000)
  until(!any(file.exists(file.path("/proc", children))))
  expect_false(any(file.exists(file.path("/proc", children))))
})
