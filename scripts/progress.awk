# Shows how far pip is: a line for every twentieth package that it takes, and what went wrong.
/^Collecting / && ++n % 20 == 1 { print "  " n " packages: " $2; fflush() }
/^Installing collected/ && n { print "  installing " n " packages"; fflush() }
