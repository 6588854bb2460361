#include <iostream>

#include "client/cli/cli.h"

int main(int argc, char** argv) {
  tessera::client::Console console{std::cout, std::cerr};
  return tessera::client::RunCli({argv + 1, argv + argc}, console);
}
