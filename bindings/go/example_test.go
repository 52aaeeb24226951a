package seerattn_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"example.com/seerattn"
)

// Dense attention needs no gate.
func ExampleContext_Attention() {
	dev, err := seerattn.Open(seerattn.Options{Backend: seerattn.BackendCPU})
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()

	const tokens, heads, dim = 2, 1, 4
	q := make([]float32, tokens*heads*dim) // zeros: every key weighs the same
	v := []float32{1, 2, 3, 4, 5, 6, 7, 8}
	out := make([]float32, tokens*heads*dim)
	_, err = dev.Attention(context.Background(), &seerattn.AttentionArgs{
		Q:   seerattn.TensorOf(q, 1, tokens, heads, dim),
		K:   seerattn.TensorOf(q, 1, tokens, heads, dim),
		V:   seerattn.TensorOf(v, 1, tokens, heads, dim),
		Out: seerattn.TensorOf(out, 1, tokens, heads, dim),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out[:dim], out[dim:])
	// Output: [1 2 3 4] [3 4 5 6]
}

// Work that is waited for elsewhere, or not at all.
func ExampleContext_StartPrefill() {
	work := func(ctx context.Context, dev *seerattn.Context, model *seerattn.Model, args *seerattn.PrefillArgs) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute) // then the work stops
		defer cancel()
		ticket, err := dev.StartPrefill(ctx, model, 0, args)
		if err != nil {
			return err
		}
		// Something else meanwhile, but for the slices of args.
		stats, err := ticket.Wait()
		if err != nil {
			return err
		}
		fmt.Printf("%.1f %% of the blocks\n", 100*stats.Density())
		return nil
	}
	_ = work
}
